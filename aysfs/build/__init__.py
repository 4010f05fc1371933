"""Building services: recipes, instances, and what a build runs."""
