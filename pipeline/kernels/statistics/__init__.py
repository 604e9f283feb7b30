"""Counts of a text that rules are made of: words, lines, sentences, repetition."""
