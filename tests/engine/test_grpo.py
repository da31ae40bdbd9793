import json
def test_x(demo):
    import gym_ray, collections
    from gym_ray.renderers import load_renderer
    R=load_renderer(None)
    print(demo)
    for r in gym_ray.read_rollouts(demo/"runs/demo"):
        print(r.spec.environment, r.status, r.truncation_reason, r.reward, [t.generation_length for t in r.turns], len(r.side_branches), json.loads(r.response)[-1].get("content",[{}])[0].get("text","")[:60])
    for p in sorted((demo/"exports").glob("*/export.json")):
        d=json.loads(p.read_text()); print(p.parent.name, d["rows"], d["dropped"], d.get("noted"))
