"""The transformer proxy: a small decoder trained on a mixture, one single-threaded process a core.

`proxy.TransformerProxy` is the `Proxy`; `pool.run_all` drives many of its runs in worker processes. Everything that
imports torch (extra `[proxy]`) is imported when a model is first trained or measured, never with this package.
"""
