"""Names in a model's config."""

HOST_KEY = "pvit_ext_host"
"""Of a nested key of config.json, beside :data:`pvit_ext.config.CONFIG_KEY`: what the host tells region modules."""
