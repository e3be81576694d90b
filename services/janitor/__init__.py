"""Retires images that nothing needs any more, and reaps builders that leaked."""
