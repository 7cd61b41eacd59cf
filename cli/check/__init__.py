"""`accede check`: a policy against two versions with a fixed set of requests, for CI.

    dataset, recorded -> sending -> trial -> outcome -> shown, junit, markdown, page

The router's own folding (router.observer.fold) and the controller's own analysis (controller.analysis)
decide, so that a check and a rollout cannot disagree. docs/decisions/0026 says what inference means here.
"""
