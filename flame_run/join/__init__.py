"""Joining a job from a site of its own (`flame-run join`): bundle, the site's configuration, approval, the worker itself."""
