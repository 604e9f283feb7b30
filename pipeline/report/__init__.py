"""What HTML reports are made of: a page with its tables, and plots. Who reports says what is on them."""
