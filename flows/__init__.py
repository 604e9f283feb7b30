"""Prefect flows, the command line and the configuration that joins the stages. Thin."""
