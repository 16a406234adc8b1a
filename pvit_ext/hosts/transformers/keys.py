"""Names in a model's config, and of keywords."""

HOST_KEY = "pvit_ext_host"
"""Key in config.json, beside :data:`pvit_ext.config.CONFIG_KEY`, of the facts that the host tells region modules."""
FILE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""Keywords of ``from_pretrained`` that choose the files it reads."""
