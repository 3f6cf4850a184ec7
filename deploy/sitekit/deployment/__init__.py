"""Deploy endpoints, to a login node or a Kubernetes cluster: `make deploy` and its siblings.

`host_commands` and `cluster_commands` are the command line. `playbook` runs Ansible on
`deploy/ansible`, with a release that `bundle` packs; on the machine itself `sitekit.target`
does what Ansible has no module for. `release` is what Helm installs in a cluster, `job` what
kubectl runs there, `watch` what its pods do; both programs are run by `helm`.
"""
