"""Retires images that nothing needs any more, reaps builders that leaked, and deletes records that are old."""
