"""The `accede` command."""
