"""Deploy endpoints, to a login node or a Kubernetes cluster: `make deploy` and its siblings.

`verbs` is the command line; a `Target` (`targets`) does what its commands say. `host` runs the
playbooks of `deploy/ansible`, with a release that `bundle` packs; on the machine itself
`sitekit.target` does what Ansible has no module for. `cluster` has Helm install a `release`, and
asks kubectl what its pods do; `helm` runs both programs.
"""
