"""The steps of a mix, a function each. Who runs them hands in where jobs run and what is shown."""
