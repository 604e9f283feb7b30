"""The regression: from what runs on some mixtures measured to what runs on any mixture would.

laws      shapes of a metric, and how they are fitted    choice    cross-validation, calibration, scores
process   what laws leave, seeds what runs of one seed share    fitting   `fit`, and the `Fit` that predicts
models    what a model's name stands for                 fit_file  a fit on disk
tables    CSV tables of mixtures and metrics: `mix fit` and `mix predict`
"""
