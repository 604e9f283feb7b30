"""Taking a source's kept documents away: files for other people's programs, a card, a manifest."""
