"""The world model as the paper describes it, readable before it is fast."""
