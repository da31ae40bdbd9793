"""`python -m gym_ray`, the entry point of `ray job submit`."""

from gym_ray.cli.main import main

if __name__ == "__main__":
    main()
