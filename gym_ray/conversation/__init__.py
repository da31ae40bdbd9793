"""What was said in a rollout: items as chat messages, and as a person reads them.

`items.py` reads what rows hold as messages. `card.py` decides what of a rollout a person is shown,
`overview.py` what of it a table says; `rollout_text.py` and `group_text.py` lay that out for a
terminal, `rollout_html.py` and `group_html.py` for a notebook. Rollouts come as anything that looks
like one (`card.Shown`), because `Rollout.show` itself calls these.

All that is shown was written by models, tools and pulled data: `plain_text.py` leaves nothing in it
that could steer a terminal, reorder a line or hide, and `html.py` escapes all of it.
"""
