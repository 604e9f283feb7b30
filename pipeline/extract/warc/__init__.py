"""Web archives to pages: records, the HTTP messages in them, and what becomes of each."""
