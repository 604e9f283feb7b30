"""What one file is, looked at before a run."""
