"""Questions of the device to the hub's language models.

    service       Questions: what collectors and other parts of the agent ask, in its thread
    local         ask(): what other programs on the device, and `tidegate-edge ask`, ask through the running agent

Each question is answered within its deadline or refused with a reason; without a hub it is refused at once. The text of
an answer is data from a language model: never execute it.
"""
