{{- define "headwater.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "headwater.labels" -}}
app.kubernetes.io/name: headwater
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "headwater.selector" -}}
app.kubernetes.io/name: headwater
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "headwater.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "headwater.name" .) -}}
{{- end -}}

{{- define "headwater.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What the operator may do, in each namespace that it watches. */}}
{{- define "headwater.rules" }}
  # What people write.
  - apiGroups: [headwater.dev]
    resources: [kafkaclusters, models, eventsources, contextviews, toolservers, agents]
    verbs: [list, watch]
  - apiGroups: [headwater.dev]
    resources: [kafkaclusters/status, models/status, eventsources/status, contextviews/status, toolservers/status, agents/status]
    verbs: [patch]
  # The finalizer of resources with `deletionPolicy: Delete`.
  - apiGroups: [headwater.dev]
    resources: [eventsources, contextviews, agents]
    verbs: [patch]
  # Owner references that block the owner's deletion.
  - apiGroups: [headwater.dev]
    resources: [contextviews/finalizers, agents/finalizers]
    verbs: [update]
  # What runs for them.
  - apiGroups: [apps]
    resources: [statefulsets]
    verbs: [get, list, watch, create, patch, delete]
  - apiGroups: [""]
    resources: [configmaps, services, serviceaccounts]
    verbs: [get, create, patch, delete]
  - apiGroups: [networking.k8s.io]
    resources: [networkpolicies]
    verbs: [get, create, patch, delete]
  # Credentials, by the names that resources give; never listed.
  - apiGroups: [""]
    resources: [secrets]
    verbs: [get]
  - apiGroups: [events.k8s.io]
    resources: [events]
    verbs: [create, patch]
{{- end -}}
