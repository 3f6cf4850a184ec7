"""What runs on a site's login node, from a release that was installed there.

``python -m sitekit.target SITE VERB`` prints one JSON document; `make deploy` and its siblings
run it through Ansible. `survey` and `install` are the exception: they run before anything is
installed, with Python's standard library alone.
"""
