"use strict";
SwaggerUIBundle({ url: "/v1/openapi.json", dom_id: "#swagger-ui", presets: [SwaggerUIBundle.presets.apis], deepLinking: true, validatorUrl: null });
