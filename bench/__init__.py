"""Benchmarks: ``python -m bench [NAME ...]`` runs them and writes ``bench/results.json``. None of them is a test."""
