"""PDF: the text layer where it is sound, OCR where it is not, page by page."""
