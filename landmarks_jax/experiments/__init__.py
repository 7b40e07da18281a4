"""The paper's tables: their trainings, what those come to, a dry run of all of them."""
