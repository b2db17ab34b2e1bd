{{/* Objects that several components have. All take (dict "root" $ "name" COMPONENT). */}}

{{- define "projector.disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "projector.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  # A pod that is broken may always be moved.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "projector.selector" . | nindent 6 }}
{{- end -}}

{{- define "projector.service" -}}
{{- $service := index .root.Values .name "service" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "projector.metadata" . | nindent 2 }}
  {{- with $service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type }}
  ports:
    - {name: http, port: {{ $service.port }}, targetPort: http}
  selector:
    {{- include "projector.selector" . | nindent 4 }}
{{- end -}}

{{- define "projector.autoscaler" -}}
{{- $autoscaling := index .root.Values .name "autoscaling" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "projector.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "projector.fullname" .root }}-{{ .name }}
  minReplicas: {{ $autoscaling.minReplicas }}
  maxReplicas: {{ $autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $autoscaling.targetCPUUtilizationPercentage }}
{{- end -}}

{{/* The head of a Deployment of HTTP servers, up to its template. */}}
{{- define "projector.deployment" -}}
{{- $values := index .root.Values .name -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "projector.metadata" . | nindent 2 }}
spec:
  {{- if not (and $values.autoscaling $values.autoscaling.enabled) }}
  replicas: {{ $values.replicas | default 1 }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "projector.selector" . | nindent 6 }}
  strategy:
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  template:
{{- end -}}
