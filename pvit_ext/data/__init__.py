"""Training records: the documented JSON schema, read and checked."""
