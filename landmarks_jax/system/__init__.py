"""What every room needs: errors, files, caches, signals, threads, compiler options."""
