"""Presets that ship with Gristmill: starting configs, rules, classifiers."""
