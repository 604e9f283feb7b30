"""The reference: commands, keys, columns, reject reasons, rules and exit codes, each said where it is defined."""
