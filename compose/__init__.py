# SPDX-License-Identifier: Apache-2.0
"""What docker-compose.yml mounts: settings, and two small programs that run inside the zonemeter image."""
