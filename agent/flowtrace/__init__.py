"""flowtrace: see every call of your own functions, with arguments, results and times, without changing a line.

For plugins: `flowtrace.hooks` has the hooks and the Sink protocol, `flowtrace.config` the types of options,
`flowtrace.events` the events, `flowtrace.errors` the exceptions, `flowtrace.testing` the test doubles.
"""

__version__ = "0.1.0"
