"""Everything real except the service: a test rig for Globus Compute on one machine.

The SDK, the endpoint and the broker (RabbitMQ) are the unmodified real ones; `standin` takes
the place of the web service and of Globus Auth, on the loopback interface. It is for tests
only.

What the stand-in keeps to, as the service documents it: expiring tokens and checked secrets;
private, group and public functions; endpoints that only their owner, or whoever an
authentication policy lets in, may use; allowed functions; 10 MB for a submission; 20 requests
in 10 s; results that are dropped when nobody fetches them; 422 once a child cannot start.

What it does not cover: TLS, tokens of other resource servers than the two it knows, Globus
Groups themselves (a client's groups are in its configuration), subscriptions and High
Assurance, the service's own scheduling and storage limits, separate broker accounts for
separate parties, and whatever the real service does that its documentation does not say.
"""
