"""What `make demo` and the tests run on: packaged models and data, fetched at run time and never committed."""
