"""The transformer proxy: a small decoder trained on a mixture, one single-threaded process a core.

`proxy.TransformerProxy` is the `Proxy`; `worker` does its runs in processes of their own. Everything that imports torch
(extra `[proxy]`) is imported when a model is first trained or measured, never with this package.
"""
