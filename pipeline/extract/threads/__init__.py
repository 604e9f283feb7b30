"""Posts with what was answered to them: Stack Exchange and Reddit."""
