"""Shared by all packages: errors, files, caches, signals, threads, tables, figures."""
