"""Looking after a store that many push to: what it holds, whether it is whole, what can go."""
