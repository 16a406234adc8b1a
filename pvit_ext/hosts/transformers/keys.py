"""Names in a model's config, and of keywords."""

HOST_KEY = "pvit_ext_host"
"""Of a nested key of config.json, beside :data:`pvit_ext.config.CONFIG_KEY`: what the host tells region modules."""
FILE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""Keywords of ``from_pretrained`` that choose the files it reads."""
