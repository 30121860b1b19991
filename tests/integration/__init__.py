"""Tests with real guests and real peers. Every wait is bounded; a failure shows the last lines of each log."""
