"""The regression: from what runs on some mixtures measured to what runs on any mixture would.

laws      shapes of a metric, and how they are fitted    choice    cross-validation, calibration, scores
process   what laws leave, seeds what runs of one seed share    fitting   `fit`, the `Fit` that predicts, and it on disk
models    what a model's name stands for                 tables    CSV tables: `mix fit` and `mix predict`
"""
