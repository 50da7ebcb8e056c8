"""Logs one line for each TCP flow that ended: where to, over what, and why."""

import logging

from easytier_hooks import Closed, Failed, FlowEvent, TcpFlow, hookimpl

logger = logging.getLogger(__name__)


@hookimpl
def on_tcp_flow(flow: TcpFlow, event: FlowEvent) -> None:
    """Log the end of a flow."""
    match event:
        case Closed(reason):
            logger.info("flow %d %s over %s closed: %s", flow.id, flow.key, flow.transport, reason)
        case Failed(reason):
            logger.warning("flow %d %s over %s failed: %s", flow.id, flow.key, flow.transport, reason)
