"""`accede demo`: real models behind the real proxy, from the first request to the decision.

story        the command: what is started, in which order, what is printed
models       the recipes of the versions, trained on scikit-learn's diabetes data
truth        what each candidate really changes, computed on the data before any traffic
model_server one version behind KServe's v1 protocol, a process of its own
http_server  the HTTP/1.1 server under it
load         the open-loop load generator, a process of its own
"""
