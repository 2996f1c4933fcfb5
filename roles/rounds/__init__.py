"""One round of an aggregator: who is asked, what comes in, what is added."""
