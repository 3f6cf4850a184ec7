"""Deploy endpoints: what `make deploy`, `status`, `upgrade` and their siblings run.

`bundle` packs a release, `inventory` says how the machine is reached, `playbook` runs Ansible
on `deploy/ansible`, `commands` is the command line. On the machine itself `sitekit.target`
does what Ansible has no module for.
"""
