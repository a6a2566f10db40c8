"""Policies that live in a dream: the bundled actor–critic and the bridges to other libraries."""
