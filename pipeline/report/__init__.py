"""HTML reports: plain tables and plots of what other rooms computed."""
