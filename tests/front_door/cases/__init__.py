"""The rows of the page. `by_name` has all of them."""
