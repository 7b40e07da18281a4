"""Published weights, read into our trees."""
