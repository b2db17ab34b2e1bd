"""Why a job may or may not use an agent: pure, by the rules that make the views."""
