from flows.stages import nothing


def plan_select(run, sources):
    return nothing("+".join(sources), "select")
